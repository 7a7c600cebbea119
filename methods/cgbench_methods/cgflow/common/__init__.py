"""What both recipes use.

`recipe` is their base class; `stack` builds the flow and `training` trains it; `design` chooses values of s to sample;
`exploration` walks on the PMF to find where it is uncertain; `stages` and `diagnostics` prepare what the record and the
figures show.
"""
