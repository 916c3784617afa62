// The figures behind a choice: what was asked, the likely tasks, and what was expected of each candidate.
import { percent, reason as inWords, short, unit } from "./format";
import { Bar, Model, Tag } from "./parts";
import type { TaskProbability } from "./types";

export interface Expected {
  learnware: string;
  expected: number;
  score: number;
  tiers?: Record<string, string>;
  may_answer?: boolean;
}

/** The expected quality of each candidate beside the base model's, best first. */
export function Candidates({
  candidates,
  base,
  baseName,
  chosen,
}: {
  candidates: Expected[];
  base: number;
  baseName: string;
  chosen: string | null;
}) {
  const rows = [
    ...candidates.map((one) => ({ ...one, isBase: false })),
    { learnware: baseName, expected: base, score: null, isBase: true, tiers: undefined, may_answer: undefined },
  ].sort((one, other) => other.expected - one.expected);
  return (
    <table class="figures named">
      <caption>Expected quality</caption>
      <thead class="unseen">
        <tr>
          <th scope="col">Model</th>
          <th scope="col">Expected quality</th>
          <th scope="col">Where its adapter is</th>
        </tr>
      </thead>
      <tbody>
        {rows.map((one) => {
          const isChosen = one.isBase ? chosen === null : one.learnware === chosen;
          return (
            <tr key={`${one.isBase}${one.learnware}`} class={isChosen ? "chosen" : ""}>
              <th scope="row">
                <Model id={one.learnware} base={one.isBase} link />
                {isChosen && <span class="unseen"> (chosen)</span>}
              </th>
              <td>
                <Bar value={one.expected} label={`Expected quality of ${one.learnware}`} tone={one.isBase ? "base" : ""} />
              </td>
              <td class="tiers">{one.tiers ? <Tiers tiers={one.tiers} /> : null}</td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}

/** The nearest tier of an adapter over all replicas. */
function Tiers({ tiers }: { tiers: Record<string, string> }) {
  const found = Object.values(tiers);
  const nearest = ["device", "host"].find((tier) => found.includes(tier)) ?? "disk";
  const where = Object.entries(tiers)
    .map(([replica, tier]) => `${short(replica)}: ${tier}`)
    .join(", ");
  return (
    <span class={`tier ${nearest}`} title={where}>
      {nearest}
    </span>
  );
}

export function Tasks({ tasks }: { tasks: TaskProbability[] }) {
  if (!tasks.length) return null;
  return (
    <table class="figures named">
      <caption>Likely tasks</caption>
      <thead class="unseen">
        <tr>
          <th scope="col">Task</th>
          <th scope="col">Probability</th>
        </tr>
      </thead>
      <tbody>
        {tasks.map((one) => (
          <tr key={one.task}>
            <th scope="row">
              <bdi>{one.task}</bdi>
            </th>
            <td>
              <Bar value={one.probability} label={`Probability of ${one.task}`} tone="task" />
            </td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

export function Ask({ ask }: { ask: string[] }) {
  if (!ask.length) return null;
  return (
    <div class="ask">
      <h4>Taken for what is asked</h4>
      {ask.map((sentence, place) => (
        <blockquote key={place} dir="auto">
          {sentence}
        </blockquote>
      ))}
    </div>
  );
}

/** The rule's comparison: how good the match is, and the least that is enough. */
export function Match({ match, bound, confidence }: { match: number; bound: number | null; confidence: number }) {
  return (
    <dl class="pairs">
      <div>
        <dt>Match</dt>
        <dd>
          <b>{unit(match)}</b>
          {bound !== null && (
            <span class="muted">
              {" "}
              {match >= bound ? "≥" : "<"} {unit(bound)}
            </span>
          )}
        </dd>
      </div>
      <div>
        <dt>Confidence</dt>
        <dd>{percent(confidence)}</dd>
      </div>
    </dl>
  );
}

export function Reason({ value }: { value: string }) {
  return (
    <span class="reason">
      <Tag tone={value.startsWith("base:") ? "base" : value.startsWith("named") ? "" : "match"}>{value}</Tag>
      <span class="muted"> {inWords(value)}</span>
    </span>
  );
}
