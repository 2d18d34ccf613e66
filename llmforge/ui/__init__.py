"""The page that shows runs: it reads what they write, and writes nothing itself."""
