"""A Nova 2 cell in MuJoCo that writes true-to-layout episodes, with its own ray caster and gel."""
