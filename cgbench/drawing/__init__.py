"""Everything that pictures share: one theme, one palette, one map of a PMF.

`style` holds the theme, the colour and marker of each method, and the writing of files; `pmf` draws PMFs. Imports
contracts, scoring, storage and errors.
"""
