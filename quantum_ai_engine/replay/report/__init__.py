"""The report of a backtest: one page for people, and the same numbers as JSON."""
