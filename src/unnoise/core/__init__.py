"""The mathematics: levels, schedules, randomness, processes, denoisers, objectives. Imports torch and nothing above."""
