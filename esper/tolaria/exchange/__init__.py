"""What a trainer says to others and hears of them: packets, answers, commands, telemetry, kernels
on their way into slots.
"""
