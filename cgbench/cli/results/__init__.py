"""Commands that read finished runs: `compare`, `leaderboard`, `report` and `rescore`."""
