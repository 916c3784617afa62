"""The market: learnwares that are submitted, checked, kept, found, replaced and removed while others are served."""
