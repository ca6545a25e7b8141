"""Preference tuning: pairs of paths, rewards, and the trainers that learn from them."""
