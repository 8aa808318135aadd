"""Leduc poker (Southey et al., 2005): two rounds of bets and a public card."""
