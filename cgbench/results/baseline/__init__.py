"""What other methods are compared with: plain MD.

`curve` has the forward KLD of plain MD against evaluations, `speedups` the ratios of costs that follow from it, and
`times` the seconds that methods and MD need. Imports only modules of `results` that find runs and treat numbers.
"""
