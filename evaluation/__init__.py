"""Baselines, metrics, walk-forward evaluation, calibration, backtest and report."""
