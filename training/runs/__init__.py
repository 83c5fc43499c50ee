"""Run folders: their files, their lifecycle, and the latest one."""
