"""Commands for other programs: scoring their results, and writing ours for them."""
