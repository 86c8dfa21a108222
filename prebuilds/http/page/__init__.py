"""The page on which operators watch and steer the pools: HTML made on the server, over the operations.

A state is read once for all who look at it (`watching`), rendered from templates (`rendering`), and sent again over
server-sent events when it has changed (`routes`). Every act is a plain form (`acts`), so the page works without
scripts.
"""
