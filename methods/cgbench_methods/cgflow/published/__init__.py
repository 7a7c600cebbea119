"""The recipe of Schopmans & Friederich (ICML 2024), to the letter but for its stop at the ground truth."""
