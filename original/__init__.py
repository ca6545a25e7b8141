"""Everything about SpaceExploreAI: its checkpoints, its data, its leak, the proof that they compute the same."""
