// Lines over time, drawn by uPlot. The colours are those of the page, in dark and light.
import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import { KEPT_S } from "./history";

export interface Line {
  name: string;
  /** Number of the page's series colour, from 1. */
  colour: number;
  values: (number | null)[];
}

const ago = (passed: number): string =>
  passed < 1 ? "now" : passed < 60 || passed % 60 > 1 ? `−${Math.round(passed)} s` : `−${Math.round(passed / 60)} min`;

const HEIGHT = 120;

export function Chart({ title, unit, times, lines }: { title: string; unit: (value: number) => string; times: number[]; lines: Line[] }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const shape = lines.map((line) => `${line.name}:${line.colour}`).join("|");
  useEffect(() => {
    const box = place.current!;
    const make = () => {
      plot.current?.destroy();
      // a custom property is read as it is written; as the colour of an element it is one that a canvas knows
      const probe = box.appendChild(document.createElement("i"));
      const colour = (name: string) => {
        probe.style.color = `var(${name})`;
        return getComputedStyle(probe).color;
      };
      const axis = { stroke: colour("--chart-text"), grid: { stroke: colour("--chart-line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
      plot.current = new uPlot(
        {
          width: box.clientWidth,
          height: HEIGHT,
          legend: { show: false },
          cursor: { show: false },
          padding: [8, 16, 0, 0],
          scales: { x: { time: true, range: (_self, first, last) => [last - Math.min(KEPT_S, Math.max(60, last - first)), last] }, y: { range: (_self, _low, high) => [0, high > 0 ? high * 1.1 : 1] } },
          axes: [
            {
              ...axis,
              size: 24,
              splits: (_self, _axis, first, last) => {
                const step = last - first > 120 ? 60 : 15;
                return Array.from({ length: Math.floor((last - first) / step + 1e-6) + 1 }, (_, place) => last - step * place).reverse();
              },
              values: (_self, marks) => marks.map((mark) => ago(marks[marks.length - 1]! - mark)),
            },
            { ...axis, space: 28, size: 52, values: (_self, marks) => marks.map(unit) },
          ],
          series: [{}, ...lines.map((line) => ({ stroke: colour(`--series-${line.colour}`), width: 1.5, points: { show: false }, spanGaps: false }))],
        },
        [times, ...lines.map((line) => line.values)],
        box,
      );
      probe.remove();
    };
    make();
    const sized = new ResizeObserver(() => plot.current?.setSize({ width: box.clientWidth, height: HEIGHT }));
    sized.observe(box);
    const recoloured = new MutationObserver(make);
    recoloured.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    scheme.addEventListener("change", make);
    return () => {
      sized.disconnect();
      recoloured.disconnect();
      scheme.removeEventListener("change", make);
      plot.current?.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => plot.current?.setData([times, ...lines.map((line) => line.values)]), [times, lines]);
  const newest = lines.map((line) => ({ ...line, now: line.values.findLast((value) => value !== null) ?? null }));
  return (
    <figure class="chart">
      <figcaption>
        <span>{title}</span>
        <ul>
          {newest.map((line) => (
            <li key={line.name}>
              <i aria-hidden="true" class={`series-${line.colour}`} />
              {line.name} <b class="figure">{line.now === null ? "–" : unit(line.now)}</b>
            </li>
          ))}
        </ul>
      </figcaption>
      <div ref={place} class="plot" aria-hidden="true" />
    </figure>
  );
}
