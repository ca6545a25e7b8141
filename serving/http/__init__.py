"""`tsf-llm serve`: forecasts over HTTP."""
