// Draws every chart of the page and keeps its colours in step with light and dark mode.
"use strict";
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const plots = [...document.querySelectorAll(".plot")];

  function colours() {
    const ink = css("--ink"), muted = css("--muted"), line = css("--line"), card = css("--card");
    const theme = { "font.color": ink, "hoverlabel.bgcolor": card, "hoverlabel.bordercolor": line, "hoverlabel.font.color": ink };
    for (const axis of ["xaxis", "yaxis"]) {
      Object.assign(theme, {
        [`${axis}.gridcolor`]: line, [`${axis}.linecolor`]: line,
        [`${axis}.tickfont.color`]: muted, [`${axis}.title.font.color`]: muted,
      });
    }
    return theme;
  }

  const themed = (plot) => Plotly.relayout(plot, colours());

  async function draw(plot) {
    const figure = JSON.parse(document.querySelector(`script[data-plot="${plot.id}"]`).textContent);
    await Plotly.newPlot(plot, figure.data, figure.layout, { displayModeBar: false });
    await themed(plot);
    // Follows the box, not only the window: a scroll bar that appears or a turned phone changes it too.
    new ResizeObserver(() => Plotly.Plots.resize(plot)).observe(plot);
  }

  for (const plot of plots) draw(plot);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(themed));
})();
