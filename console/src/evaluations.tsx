// What was found out about models that answered the same requests, and about new versions on trial.
import { useState } from "preact/hooks";
import { Confirm, afterwards, type Change } from "./changes";
import { compact, count, percent, seconds, share, unit, when } from "./format";
import { useFetched, useRested, useSession } from "./hooks";
import { Empty, Fault, Model, Placeholder, Tag } from "./parts";
import type { Beside, Evaluations, Learnware, Pair, Rate, Trial } from "./types";

const PERIODS = [
  { title: "All that is kept", seconds: null },
  { title: "Last hour", seconds: 3600 },
  { title: "Last day", seconds: 86_400 },
  { title: "Last 7 days", seconds: 7 * 86_400 },
] as const;

const SOURCES: Record<string, string> = {
  judge: "a judge, blind and in both orders",
  reference: "right answers given as feedback",
  feedback: "feedback to each one's own requests",
};

interface Filters {
  learnware: string;
  after: number | null;
}

export function EvaluationsPage() {
  const session = useSession();
  const [filters, setFilters] = useState<Filters>({ learnware: "", after: null });
  const rested = useRested(filters, 300);
  const [said, setSaid] = useState("");
  const query = new URLSearchParams();
  if (rested.learnware.trim()) query.set("learnware", rested.learnware.trim());
  if (rested.after !== null) query.set("after", String(rested.after));
  const asked = query.toString();
  const found = useFetched<Evaluations>(session.decisions ? `/v1/evaluations${asked && `?${asked}`}` : null);
  if (!session.decisions) {
    return (
      <Empty title="Answers are not compared">
        <p class="muted">
          Comparisons are kept with the decisions: set <code>decisions.enabled: true</code> in the configuration and start the stack
          anew.
        </p>
      </Empty>
    );
  }
  const state = found.value;
  const filtered = asked !== "";
  return (
    <>
      <div class="head">
        <h1>Evaluations</h1>
        <p class="muted">
          {session.admin || !session.keys ? "of all tenants’ requests" : `of ${session.tenant}’s requests`}
          {state?.since != null && `, since ${when(state.since)}`}
        </p>
        <span class="space" />
        <button type="button" onClick={found.again}>
          Refresh
        </button>
      </div>
      <div class="filters" role="search">
        <label>
          Learnware
          <input
            value={filters.learnware}
            placeholder="id"
            spellcheck={false}
            onInput={(event) => setFilters({ ...filters, learnware: event.currentTarget.value })}
          />
        </label>
        <label>
          Time
          <select
            aria-label="Time"
            onChange={(event) => {
              const period = PERIODS[event.currentTarget.selectedIndex]?.seconds ?? null;
              setFilters({ ...filters, after: period === null ? null : Math.floor(Date.now() / 1000) - period });
            }}
          >
            {PERIODS.map((one) => (
              <option key={one.title}>{one.title}</option>
            ))}
          </select>
        </label>
      </div>
      <div role="status">{said && <div class="note">{said}</div>}</div>
      <Fault error={found.error} retry={found.again} />
      {!state && !found.error && <Placeholder rows={8} />}
      {state && (
        <>
          <Judge state={state} />
          {state.canaries.length > 0 && (
            <Canaries
              state={state}
              made={(text) => {
                setSaid(text);
                found.again();
              }}
            />
          )}
          {state.pairs.length > 0 && <Pairs pairs={state.pairs} base={session.base} />}
          {state.pairs.length === 0 && state.canaries.length === 0 && (
            <Empty title={filtered ? "Nothing fits these filters" : "Nothing has been compared yet"}>
              <p class="muted">
                {filtered ? (
                  "Take one of them away."
                ) : (
                  <>
                    With <code>shadow.share</code> in the configuration a share of the requests is answered a second time by another
                    model. A new version that is submitted as a canary is compared with the current one.
                  </>
                )}
              </p>
            </Empty>
          )}
        </>
      )}
    </>
  );
}

/** Who judges, and what waits for it. */
function Judge({ state }: { state: Evaluations }) {
  return (
    <p class="muted">
      {state.judge === null ? (
        "No model judges (shadow.judge): right answers and feedback decide."
      ) : (
        <>
          Judge: <bdi>{state.judge}</bdi>.
        </>
      )}
      {state.waiting > 0 && ` ${count(state.waiting)} ${state.waiting === 1 ? "pair of answers waits" : "pairs of answers wait"}.`}
      {state.failed > 0 && ` ${count(state.failed)} could not be judged.`}
    </p>
  );
}

const STATE_TONES: Record<string, string> = { running: "warn", promoted: "good", "rolled back": "bad" };
const VERDICT_TONES: Record<string, string> = { better: "good", equal: "good", worse: "bad" };

function Canaries({ state, made }: { state: Evaluations; made: (said: string) => void }) {
  const session = useSession();
  const [asks, setAsks] = useState<{ change: Change; id: string } | null>(null);
  return (
    <section aria-labelledby="canaries">
      <h2 id="canaries">Canaries</h2>
      {!session.admin && <p class="muted small">The answers behind a verdict are those of all tenants: the admin key shows them.</p>}
      <div class="trials">
        {state.canaries.map((one) => (
          <TrialView
            key={`${one.learnware}@${one.version}@${one.since}`}
            trial={one}
            ask={session.admin && one.state === "running" ? (change) => setAsks({ change, id: one.learnware }) : null}
          />
        ))}
      </div>
      {asks !== null && (
        <Confirm
          {...asks}
          close={() => setAsks(null)}
          made={(answer: Learnware) => {
            setAsks(null);
            made(afterwards(asks.change, answer));
          }}
        />
      )}
    </section>
  );
}

/** One canary: its state, what its rule says of it and why, and what that rests on. */
function TrialView({ trial, ask }: { trial: Trial; ask: ((change: Change) => void) | null }) {
  const { feedback, failures, pairs } = trial.evidence ?? {};
  const rates = Object.entries(pairs ?? {}).filter(([, rate]) => rate.win_rate !== null);
  return (
    <article class="trial" aria-label={`Canary of ${trial.learnware}`}>
      <header>
        <Model id={trial.learnware} link />
        <span class="muted">
          version <bdi class={typeof trial.version === "string" ? "mono" : ""}>{shortVersion(trial.version)}</bdi>
        </span>
        <Tag tone={STATE_TONES[trial.state] ?? ""}>{trial.state}</Tag>
        {trial.verdict !== "waiting" && <Tag tone={VERDICT_TONES[trial.verdict] ?? ""}>{trial.verdict}</Tag>}
        <span class="space" />
        {ask !== null && (
          <span class="actions">
            <button type="button" onClick={() => ask("promote")}>
              Promote
            </button>
            <button type="button" class="danger" onClick={() => ask("roll-back")}>
              Roll back
            </button>
          </span>
        )}
      </header>
      {trial.why !== null && <p dir="auto">{trial.why}</p>}
      <dl class="pairs">
        <div>
          <dt>Share</dt>
          <dd>{share(trial.share)}</dd>
        </div>
        {trial.answers !== null && (
          <div>
            <dt>Answers</dt>
            <dd>{compact(trial.answers)}</dd>
          </div>
        )}
        <div>
          <dt>Since</dt>
          <dd>{when(trial.since)}</dd>
        </div>
        {trial.until != null && (
          <div>
            <dt>Until</dt>
            <dd>{when(trial.until)}</dd>
          </div>
        )}
      </dl>
      {(feedback || failures) && (
        <table class="figures">
          <thead>
            <tr>
              <th scope="col">Mean</th>
              <th scope="col">Canary</th>
              <th scope="col">Current version</th>
            </tr>
          </thead>
          <tbody>
            {feedback && <Means name="Feedback" of={feedback} shown={unit} />}
            {failures && <Means name="Failed answers" of={failures} shown={(share) => (share === null ? "–" : `${(100 * share).toFixed(1)} %`)} />}
          </tbody>
        </table>
      )}
      {rates.map(([source, rate]) => (
        <div class="found" key={source}>
          <span class="muted small">Win rate over the current version, by {SOURCES[source] ?? <bdi>{source}</bdi>}</span>
          <WinRate rate={rate} />
        </div>
      ))}
    </article>
  );
}

function Means({ name, of, shown }: { name: string; of: Beside; shown: (mean: number | null) => string }) {
  return (
    <tr>
      <th scope="row">{name}</th>
      {[of.canary, of.current].map(([number, mean], place) => (
        <td key={place}>{number === 0 ? <span class="muted">none</span> : `${shown(mean)} of ${count(number)}`}</td>
      ))}
    </tr>
  );
}

/** What tells a version from others: the beginning of the hash in its name in the engine, or its number. */
const shortVersion = (version: string | number): string => String(version).split("@").pop()!.slice(0, 12);

function Pairs({ pairs, base }: { pairs: Pair[]; base: string }) {
  const rows = [...pairs].sort((one, other) => other.comparisons - one.comparisons);
  return (
    <section aria-labelledby="comparisons">
      <h2 id="comparisons">Comparisons</h2>
      <div class="scroll" tabIndex={0} role="region" aria-label="Comparisons">
        <table class="list stacks compared">
          <thead>
            <tr>
              <th scope="col">Model</th>
              <th scope="col">Beside</th>
              <th scope="col">Win rate, 95 % interval</th>
              <th scope="col" class="right">
                Won, tied, lost
              </th>
              <th scope="col" class="right">
                Tokens
              </th>
              <th scope="col" class="right">
                Time
              </th>
              <th scope="col">Known by</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((one) => (
              <tr key={JSON.stringify([one.first, one.first_version, one.second, one.second_version, one.kind, one.source])}>
                <th scope="row">
                  <Side id={one.second} version={one.second_version} base={base} />
                </th>
                <td data-label="Beside">
                  <Side id={one.first} version={one.first_version} base={base} />
                </td>
                <td data-label="Win rate" class="rate">
                  <WinRate rate={one} />
                </td>
                <td data-label="Won, tied, lost" class="right">
                  {one.wins === null ? count(one.comparisons) : [one.wins, one.ties ?? 0, one.losses ?? 0].map(count).join(" / ")}
                </td>
                <td data-label="Tokens" class="right">
                  <Both values={one.tokens} shown={(value) => (value === null ? "–" : compact(value))} />
                </td>
                <td data-label="Time" class="right">
                  <Both values={one.seconds} shown={seconds} />
                </td>
                <td data-label="Known by">
                  <span class="side">
                    <bdi title={SOURCES[one.source]}>{one.source}</bdi>
                    <span class="sub plain-sub">
                      <bdi>{one.kind}</bdi>
                    </span>
                  </span>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p class="muted small">
        Ties count half. Each pair of figures is the model’s and the one’s beside it. Where the whole interval lies to the right of the
        line, the model is better than the one beside it.
      </p>
    </section>
  );
}

function Side({ id, version, base }: { id: string; version: string | null; base: string }) {
  const hash = version === null ? null : shortVersion(version);
  return (
    <span class="side">
      <Model id={id} base={id === base} link />
      {hash && (
        <span class="sub">
          <bdi class="mono">{hash}</bdi>
        </span>
      )}
    </span>
  );
}

/** The second model's figure before the first one's, as the columns have them. */
function Both({ values, shown }: { values: [number | null, number | null] | null; shown: (value: number | null) => string }) {
  return <>{!values?.some((value) => value !== null) ? "–" : `${shown(values[1])} · ${shown(values[0])}`}</>;
}

/** A win rate with its interval: the line in the middle is that of equals. */
function WinRate({ rate }: { rate: Rate }) {
  if (rate.win_rate === null) return <span class="muted">–</span>;
  const [low, high] = rate.interval ?? [rate.win_rate, rate.win_rate];
  const tone = low > 0.5 ? "better" : high < 0.5 ? "worse" : "";
  const said = `${percent(rate.win_rate)}, ${Math.round(low * 100)} to ${percent(high)}`;
  return (
    <span class="win-rate">
      <svg class={`interval ${tone}`} viewBox="0 0 100 12" preserveAspectRatio="none" role="img" aria-label={`Win rate ${said}`}>
        <rect class="track" x="0" y="4" width="100" height="4" />
        <rect class="between" x={100 * low} y="2" width={Math.max(1, 100 * (high - low))} height="8" />
        <line class="equal" x1="50" y1="0" x2="50" y2="12" />
        <line class="at" x1={100 * rate.win_rate} y1="0" x2={100 * rate.win_rate} y2="12" />
      </svg>
      <span class="figure" aria-hidden="true">
        {said}
      </span>
    </span>
  );
}
