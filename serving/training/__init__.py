"""Training of learnwares' adapters, and scoring them against controls."""
