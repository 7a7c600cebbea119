"""Free torsions that are no collective variables: side chains, which may turn more slowly than a walker samples.

`torsions` finds them and makes starts in all their rotamers, `bias` adds a bias along each of them to that on the
collective variables, and `mixing` measures whether walkers forget the rotamer that they started in.
"""
