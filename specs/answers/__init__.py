"""What a learnware's answers look like: their kinds and lengths, the form that an ask names, and answers of no use."""
