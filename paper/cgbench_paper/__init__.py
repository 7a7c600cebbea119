"""Figures and tables of the paper, one module each, made from published records alone.

Imports the harness, and no method or system: those are loaded by name, from the records.
"""

from __future__ import annotations

__all__ = ["FIGURES", "TABLES"]

FIGURES = {
    "fig1_scheme": "cgbench_paper.figures.fig1_scheme",
    "fig2_muller_brown": "cgbench_paper.figures.fig2_muller_brown",
    "fig3_ramachandran": "cgbench_paper.figures.fig3_ramachandran",
    "fig4_convergence": "cgbench_paper.figures.fig4_convergence",
    "fig5_potential": "cgbench_paper.figures.fig5_potential",
    "figS1_all_iterations": "cgbench_paper.figures.fig_s1_all_iterations",
    "figS2_md_convergence": "cgbench_paper.figures.fig_s2_md_convergence",
    "figS3_efficiency": "cgbench_paper.figures.fig_s3_efficiency",
    "figS4_calibration": "cgbench_paper.figures.fig_s4_calibration",
    "figS5_ablation": "cgbench_paper.figures.fig_s5_ablation",
    "figS6_cost": "cgbench_paper.figures.costs.fig_s6_cost",
    "figS7_break_even": "cgbench_paper.figures.costs.fig_s7_break_even",
}
TABLES = {"table1": "cgbench_paper.tables.table1", "table2": "cgbench_paper.tables.table2"}
