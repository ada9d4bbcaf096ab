"""Topics, rights, passwords and quotas of a broker or cluster: compared with what they have to be,
and made so.
"""
