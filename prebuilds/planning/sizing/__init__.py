"""What size a pool should have: rules, their replay on the pool's own past, and the choice among them.

All of it is pure. `demand` is what a pool was asked for, `rules` say what size they would have held at each minute of
it, `replay` scores those sizes, and `choosing` takes the cheapest rule that met the target.
"""
