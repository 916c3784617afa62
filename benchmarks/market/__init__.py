"""How well a market of many learnwares is chosen from, by this rule and by others."""
