"""The demonstration: export the checkpoint, use the bundle in every way, and lay the results out on one page.

python -m illume_training.demo --checkpoint assets/illume-tiny --output build/demo
"""
