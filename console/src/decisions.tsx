// The log of decisions: filtered, each with the figures it was made by, and replayed against today's market.
import { useEffect, useState } from "preact/hooks";
import { get, post, send } from "./api";
import { clock, seconds, short, unit } from "./format";
import { useRested, useSession } from "./hooks";
import { Empty, Fault, Model, Placeholder, Tag, Time } from "./parts";
import type { Decision, RecordedChoice, Session } from "./types";
import { Ask, Candidates, Match, Reason, Tasks } from "./why";

const PAGE = 50;

/** Reads the log's answer: JSON lines, or a JSON object with a list in it. */
export function recordsIn(text: string): Decision[] {
  const whole = text.trim();
  if (!whole) return [];
  try {
    const value = JSON.parse(whole);
    if (Array.isArray(value)) return value;
    if (Array.isArray(value.data)) return value.data;
    return [value];
  } catch {
    return whole.split("\n").map((line) => JSON.parse(line) as Decision);
  }
}

interface Filters {
  reason: string;
  learnware: string;
  status: string;
  tenant: string;
  task: string;
}
const NO_FILTERS: Filters = { reason: "", learnware: "", status: "", tenant: "", task: "" };

export function DecisionsPage({ id }: { id: string | undefined }) {
  const session = useSession();
  const [filters, setFilters] = useState<Filters>(NO_FILTERS);
  const rested = useRested(filters, 300);
  const [records, setRecords] = useState<Decision[] | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [more, setMore] = useState(false);
  const [turn, again] = useState(0);

  const ask = async (before: number | null, signal?: AbortSignal): Promise<Decision[]> => {
    const query = new URLSearchParams({ limit: String(PAGE) });
    for (const [name, value] of Object.entries(rested)) if (value.trim()) query.set(name, value.trim());
    if (before !== null) query.set("before", String(before));
    return recordsIn(await (await send(`/v1/decisions?${query}`, signal ? { signal } : {})).text());
  };
  useEffect(() => {
    if (!session.decisions) return undefined;
    const stop = new AbortController();
    ask(null, stop.signal).then(
      (found) => {
        setRecords(found);
        setMore(found.length === PAGE);
        setError(null);
      },
      (wrong) => stop.signal.aborted || setError(wrong),
    );
    return () => stop.abort();
  }, [rested, turn, session.decisions]);
  const older = async () => {
    try {
      const found = await ask(records![records!.length - 1]!.time);
      setRecords([...records!, ...found]);
      setMore(found.length === PAGE);
    } catch (wrong) {
      setError(wrong);
    }
  };

  if (!session.decisions) {
    return (
      <Empty title="Decisions are not recorded">
        <p class="muted">
          Set <code>decisions.enabled: true</code> in the configuration and start the stack anew.
        </p>
      </Empty>
    );
  }
  if (id !== undefined) return <DecisionPage id={id} />;
  const filtered = Object.values(filters).some(Boolean);
  const field = (name: keyof Filters, label: string, placeholder: string) => (
    <label>
      {label}
      <input
        value={filters[name]}
        placeholder={placeholder}
        spellcheck={false}
        onInput={(event) => setFilters({ ...filters, [name]: event.currentTarget.value })}
      />
    </label>
  );
  return (
    <>
      <div class="head">
        <h1>Decisions</h1>
        <p class="muted">{session.admin || !session.keys ? "of all tenants, newest first" : `of ${session.tenant}, newest first`}</p>
        <span class="space" />
        <button type="button" onClick={() => again((one) => one + 1)}>
          Refresh
        </button>
      </div>
      <div class="filters" role="search">
        {field("reason", "Reason", "base:better")}
        {field("learnware", "Learnware", "id")}
        {field("status", "Status", "200")}
        {field("task", "Task", "domain-task")}
        {session.admin && field("tenant", "Tenant", "name")}
        {filtered && (
          <button type="button" class="quiet" onClick={() => setFilters(NO_FILTERS)}>
            Clear
          </button>
        )}
      </div>
      <Fault error={error} retry={() => again((one) => one + 1)} />
      {!records && !error && <Placeholder rows={8} />}
      {records?.length === 0 && (
        <Empty title={filtered ? "No decision fits these filters" : "No decision yet"}>
          <p class="muted">{filtered ? "Take one of them away." : "Each request that generates is recorded here."}</p>
        </Empty>
      )}
      {records && records.length > 0 && (
        <div class="scroll" tabIndex={0} role="region" aria-label="Decisions">
          <table class="list stacks">
            <thead>
              <tr>
                <th scope="col">Time</th>
                <th scope="col">Answered by</th>
                <th scope="col">Reason</th>
                <th scope="col" class="right">
                  Match
                </th>
                <th scope="col" class="right">
                  First token
                </th>
                <th scope="col" class="right">
                  Tokens
                </th>
                <th scope="col">Tenant</th>
                <th scope="col">Status</th>
                <th scope="col">Feedback</th>
              </tr>
            </thead>
            <tbody>
              {records.map((one) => (
                <tr key={`${one.id}${one.time}`}>
                  <th scope="row" class="figure">
                    <a href={`#/decisions/${encodeURIComponent(one.id)}`}>
                      <Time epoch={one.time}>{clock(one.time)}</Time>
                    </a>
                  </th>
                  <td data-label="Answered by">
                    <Answerer one={one} session={session} />
                  </td>
                  <td data-label="Reason">
                    <Tag tone={one.reason?.startsWith("base:") ? "base" : one.reason === "named" ? "" : "match"}>{one.reason}</Tag>
                  </td>
                  <td data-label="Match" class="right">
                    {unit(one.score)}
                  </td>
                  <td data-label="First token" class="right">
                    {seconds(one.ttft_s)}
                  </td>
                  <td data-label="Tokens" class="right">
                    {one.tokens?.generated ?? "–"}
                  </td>
                  <td data-label="Tenant">
                    <bdi>{one.tenant}</bdi>
                  </td>
                  <td data-label="Status">
                    <Status status={one.status} />
                  </td>
                  <td data-label="Feedback">
                    <Feedback one={one} />
                  </td>
                </tr>
              ))}
            </tbody>
          </table>
          {more && (
            <p class="actions">
              <button type="button" onClick={() => void older()}>
                Older ones
              </button>
            </p>
          )}
        </div>
      )}
    </>
  );
}

function Answerer({ one, session }: { one: Decision; session: Session }) {
  return one.learnware ? <Model id={one.learnware} base={one.learnware === session.base} /> : <span class="muted">nobody</span>;
}

const Status = ({ status }: { status: number }) => <Tag tone={status < 400 ? "" : status < 500 ? "warn" : "bad"}>{status}</Tag>;

function Feedback({ one }: { one: Decision }) {
  const pieces = one.feedback ?? [];
  if (!pieces.length) return <span class="muted">–</span>;
  const last = pieces[pieces.length - 1]!;
  const score = last.label === "right" ? 1 : last.label === "wrong" ? 0 : (last.score ?? null);
  return (
    <Tag tone={score === null ? "" : score >= 0.5 ? "good" : "bad"}>
      {last.label ?? (last.answer ? "answer" : unit(last.score))}
      {pieces.length > 1 && ` +${pieces.length - 1}`}
    </Tag>
  );
}

interface Replay {
  choice?: (RecordedChoice & { reason?: string; explanation?: string }) | null;
  learnware?: string | null;
  reason?: string;
  explanation?: string;
  differs?: boolean;
  why?: string | string[] | null;
  [more: string]: unknown;
}

function DecisionPage({ id }: { id: string }) {
  const session = useSession();
  const [one, setOne] = useState<Decision | null>(null);
  const [error, setError] = useState<unknown>(null);
  const [replay, setReplay] = useState<Replay | null>(null);
  const [replayError, setReplayError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const path = `/v1/decisions/${encodeURIComponent(id)}`;
  useEffect(() => {
    const stop = new AbortController();
    setOne(null);
    setReplay(null);
    get<Decision>(path, stop.signal).then(setOne, (wrong) => stop.signal.aborted || setError(wrong));
    return () => stop.abort();
  }, [path]);
  const again = async () => {
    setBusy(true);
    setReplayError(null);
    try {
      setReplay(await post<Replay>(`${path}/replay`));
    } catch (wrong) {
      setReplayError(wrong);
    }
    setBusy(false);
  };
  return (
    <>
      <p class="crumbs">
        <a href="#/decisions">Decisions</a>
      </p>
      <Fault error={error} />
      {!one && !error && <Placeholder rows={8} />}
      {one && (
        <>
          <div class="head">
            <h1 class="mono">{one.id}</h1>
            <Status status={one.status} />
            <span class="space" />
            <button type="button" class="primary" disabled={busy} onClick={() => void again()}>
              Replay against today’s market
            </button>
          </div>
          <Fault error={replayError} />
          <div class="sheet">
            <section class="wide-part">
              <p class="answered">
                <Answerer one={one} session={session} /> <Reason value={one.reason} />
              </p>
              <div class={replay ? "beside" : ""}>
                <div>
                  {replay && <h3>Then</h3>}
                  {one.choice ? (
                    <Figures choice={one.choice} session={session} score={one.score} />
                  ) : (
                    <p class="muted">Nothing was chosen: the request named its model, or no router decided.</p>
                  )}
                </div>
                {replay && (
                  <div role="status">
                    <h3>Today</h3>
                    <Replayed replay={replay} session={session} before={one} />
                  </div>
                )}
              </div>
              {one.text && (
                <details>
                  <summary>Prompt and answer</summary>
                  <h4>Prompt</h4>
                  <pre dir="auto">{asText(one.text.prompt)}</pre>
                  <h4>Answer</h4>
                  <pre dir="auto">{asText(one.text.answer)}</pre>
                </details>
              )}
            </section>
            <aside>
              <Facts one={one} />
            </aside>
          </div>
        </>
      )}
    </>
  );
}

const asText = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value, null, 2) ?? "");

function Figures({ choice, session, score }: { choice: RecordedChoice; session: Session; score?: number | null }) {
  return (
    <>
      <Candidates candidates={choice.candidates ?? []} base={choice.base} baseName={session.base} chosen={choice.learnware} />
      <Match match={score ?? choice.candidates?.[0]?.score ?? 0} bound={choice.bound ?? null} confidence={choice.confidence ?? 0} />
      <Tasks tasks={choice.tasks ?? []} />
      <Ask ask={choice.ask ?? []} />
    </>
  );
}

function Replayed({ replay, session, before }: { replay: Replay; session: Session; before: Decision }) {
  const choice = replay.choice ?? (Array.isArray(replay["candidates"]) ? (replay as unknown as RecordedChoice) : null);
  const chosen = replay.choice?.learnware ?? replay.learnware ?? null;
  const then = before.choice?.learnware ?? null;
  const why = Array.isArray(replay.why) ? replay.why : replay.why ? [replay.why] : [];
  const same = replay.differs === undefined ? chosen === then : !replay.differs;
  return (
    <>
      <p>
        <Tag tone={same ? "good" : "warn"}>{same ? "the same choice" : "another choice"}</Tag>{" "}
        <Model id={chosen ?? session.base} base={chosen === null} link />
      </p>
      {why.map((sentence, place) => (
        <p key={place} dir="auto">
          {sentence}
        </p>
      ))}
      {choice && <Figures choice={normal(choice)} session={session} score={(choice as { score?: number }).score ?? null} />}
    </>
  );
}

/** A choice as a record has it: `/v1/route` writes the base model's quality as an object, and the bound as min_match. */
function normal(choice: RecordedChoice): RecordedChoice {
  const loose = choice as unknown as { base: number | { expected: number }; bound?: number; min_match?: number };
  const base = typeof loose.base === "object" ? loose.base.expected : loose.base;
  return { ...choice, base, bound: loose.bound ?? loose.min_match ?? null };
}

function Facts({ one }: { one: Decision }) {
  const rows: [string, string | null][] = [
    ["Time", new Date(one.time * 1000).toISOString().replace("T", " ").slice(0, 19)],
    ["Tenant", one.tenant],
    ["Path", one.path],
    ["Model asked", one.model],
    ["Version", one.version && (one.version.split("@").pop() ?? null)],
    ["Replica", one.replica && short(one.replica)],
    ["Adapter in", one.tier],
    ["Tokens", one.tokens && `${one.tokens.prompt} in, ${one.tokens.generated} out`],
    ["First token", seconds(one.ttft_s)],
    ["Total", seconds(one.seconds)],
    ["Waited", one.queue_s === null ? null : seconds(one.queue_s)],
    ["Decided in", one.route_ms === null ? null : `${one.route_ms.toFixed(1)} ms`],
    ["Market's change", one.choice?.market === undefined ? null : String(one.choice.market)],
    ["Trace", one.trace],
    ["Decision", one.decision],
  ];
  return (
    <>
      <h3>Request</h3>
      <dl class="pairs">
        {rows.map(
          ([name, value]) =>
            value && (
              <div key={name} class={value.length > 15 ? "wide" : ""}>
                <dt>{name}</dt>
                <dd>
                  <bdi>{value}</bdi>
                </dd>
              </div>
            ),
        )}
      </dl>
      {(one.feedback ?? []).length > 0 && (
        <>
          <h3>Feedback</h3>
          <ul class="plain">
            {one.feedback!.map((piece, place) => (
              <li key={place}>
                <Tag tone={piece.label === "wrong" ? "bad" : piece.label === "right" ? "good" : ""}>
                  {piece.label ?? (piece.score !== null && piece.score !== undefined ? unit(piece.score) : "answer")}
                </Tag>{" "}
                <span class="muted small">
                  <Time epoch={piece.time}>{clock(piece.time)}</Time>
                  {piece.tenant && ` · ${piece.tenant}`}
                </span>
                {piece.answer && <blockquote dir="auto">{piece.answer}</blockquote>}
              </li>
            ))}
          </ul>
        </>
      )}
    </>
  );
}
