"""What a model's forecasts rest on: features, past bars, experts, the market."""
