"""Training and scoring of learnwares."""
