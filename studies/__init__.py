"""Studies of the conditional flow and of stored runs, for a clone of the repository; the wheel does not contain them.

Run them in the root folder of the repository:

- ``python -m studies.ablation --seeds 3 --out ablation`` runs the default preset with one setting changed at a time,
  and writes ``ablation/<system>/ablation/ablation.csv``. About 25 minutes per seed on one core; an interrupted study
  resumes. The published tables are ``runs/<system>/ablation/ablation.csv``.
- ``python -m studies.weight_tails`` compares the importance weights of a trained flow with those of configurations
  from biased molecular dynamics, and writes ``weight_tails/weight_tails.csv``. About ten minutes; an interrupted study
  starts over. The published table is ``runs/aldp/weight_tails/weight_tails.csv``.
- ``python -m studies.more_samples`` compares the PMF of a run with many more samples of its own flow, and writes
  ``more_samples/more_samples.csv``. An interrupted study starts over.
- ``python -m studies.coverage FOLDER`` compares the claimed errors of stored runs with their true ones.
- ``python -m studies.active_learning FOLDER`` splits the error of each stage of a stored run of active learning by
  basin. The published table is ``runs/aldp/cgflow_al/paper/active_learning.csv``.
- ``python -m studies.code FOLDER`` shows which stored runs were made by the code as it stands.

``--help`` lists the options.
"""
