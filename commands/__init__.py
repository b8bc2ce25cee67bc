"""The commands of isoflop, by what they are about."""
