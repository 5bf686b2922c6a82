"""A study on six tiny scenes of 48×64 pixels."""

TINY = """
    --synthetic-image-size 48 64 --region-size 16 16 --crop-size 32 32 --synthetic-images 2 4 6 2 2
    --pretrain-images 4 --batch-size 4 --max-epochs 2 --query-size 2 --pool-size 3 --budget 6 --episodes 2
    --budgets 3 6 --pool-size-uniform 4 --num-mc-samples 2 --num-seeds 2 --replay-capacity 20
    --methods ralis entropy uniform
""".split()
