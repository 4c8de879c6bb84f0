"""The ledger of a data set: what was spent, over all runs, for as long as the data lives."""
