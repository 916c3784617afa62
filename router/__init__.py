"""From a request to one learnware: task specification, ranking, choice."""
