# The planner beside published runs.
TESTS += tests/plan/published.t
EXTRA_DIST += tests/plan/published.t tests/plan/published.csv
