"""Figures and tables of the paper, drawn from published records alone: one module each."""

from __future__ import annotations

__all__ = ["FIGURES", "TABLES"]

FIGURES = {
    "fig1_scheme": "paper.figures.fig1_scheme",
    "fig2_muller_brown": "paper.figures.fig2_muller_brown",
    "fig3_ramachandran": "paper.figures.fig3_ramachandran",
    "fig4_convergence": "paper.figures.fig4_convergence",
    "fig5_potential": "paper.figures.fig5_potential",
    "figS1_all_iterations": "paper.figures.fig_s1_all_iterations",
    "figS2_md_convergence": "paper.figures.fig_s2_md_convergence",
    "figS3_efficiency": "paper.figures.fig_s3_efficiency",
    "figS4_calibration": "paper.figures.fig_s4_calibration",
    "figS5_levers": "paper.figures.fig_s5_levers",
    "figS6_cost": "paper.figures.fig_s6_cost",
}
TABLES = {"table1": "paper.tables.table1"}
