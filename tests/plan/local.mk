# The planner: its command, and its plans beside published runs.
TESTS += tests/plan/plan.t tests/plan/published.t
EXTRA_DIST += tests/plan/plan.t tests/plan/published.t tests/plan/published.csv
