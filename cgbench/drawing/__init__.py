"""Pictures of PMFs and what all pictures share. Imports contracts and storage."""
