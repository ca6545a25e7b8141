"""What a model has to beat: one file per family, one interface (`catalogue.py`), one way to run them (`run.py`)."""
