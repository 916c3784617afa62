// A chat that shows who answers each turn, and why.
import { useEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import { ApiError, post, stream } from "./api";
import { compact, seconds, short } from "./format";
import { useFetched, useSession } from "./hooks";
import { Fault, Model, Placeholder } from "./parts";
import type { Learnware, LearnwareList, Route, Session } from "./types";
import { Ask, Candidates, Match, Reason, Tasks } from "./why";

interface Message {
  role: "system" | "user" | "assistant";
  content: string;
}

/** One model's answer to a turn. Requests change it in place, and the page is drawn anew at most once a frame. */
interface Answer {
  number: number;
  asked: string;
  text: string;
  model: string | null;
  reason: string | null;
  requestId: string | null;
  routeMs: number | null;
  firstToken: number | null;
  total: number | null;
  tokens: number | null;
  finish: string | null;
  running: boolean;
  error: unknown;
  verdict: "right" | "wrong" | null;
  verdictNote: string | null;
  stop: AbortController;
}

interface Exchange {
  number: number;
  messages: Message[];
  answers: Answer[];
  /** The answer that the conversation goes on with. */
  kept: number;
  route: Route | null;
  routeError: unknown;
}

interface Options {
  model: string;
  system: string;
  maxTokens: number;
  temperature: number;
}

let numbers = 0;

export function TryPage() {
  const session = useSession();
  const auto = session.auto[0] ?? "auto";
  const [exchanges, setExchanges] = useState<Exchange[]>([]);
  const [options, setOptions] = useState<Options>({ model: auto, system: "", maxTokens: 256, temperature: 0 });
  const draw = useFrames();
  const follows = useRef(true);
  const market = useFetched<LearnwareList>("/v1/learnwares");
  const learnwares = market.value?.data ?? [];
  const busy = exchanges.some((one) => one.answers.some((answer) => answer.running));

  // The page follows the newest answer until its reader scrolls away.
  useEffect(() => {
    const away = (event: Event) => {
      if (!(event instanceof WheelEvent) || event.deltaY < 0) follows.current = false;
    };
    addEventListener("wheel", away, { passive: true });
    addEventListener("touchmove", away, { passive: true });
    return () => {
      removeEventListener("wheel", away);
      removeEventListener("touchmove", away);
    };
  }, []);
  useEffect(() => {
    if (!busy || !follows.current) return;
    document.querySelector(".exchange:last-child .answer[aria-busy=true]")?.scrollIntoView({ block: "nearest" });
  });

  const run = async (exchange: Exchange, model: string) => {
    const answer: Answer = {
      number: ++numbers,
      asked: model,
      text: "",
      model: null,
      reason: null,
      requestId: null,
      routeMs: null,
      firstToken: null,
      total: null,
      tokens: null,
      finish: null,
      running: true,
      error: null,
      verdict: null,
      verdictNote: null,
      stop: new AbortController(),
    };
    exchange.answers.push(answer);
    draw();
    const began = performance.now();
    const passed = () => (performance.now() - began) / 1000;
    try {
      const ended = await stream(
        { ...bodyOf(exchange, model), max_tokens: options.maxTokens, temperature: options.temperature },
        (headers, sent) => {
          answer.model = headers.get("x-learnware");
          answer.reason = headers.get("x-learnware-reason");
          answer.requestId = headers.get("x-request-id") ?? sent;
          const routed = headers.get("x-learnware-route-ms");
          answer.routeMs = routed === null ? null : Number(routed);
          draw();
        },
        (text) => {
          answer.firstToken ??= passed();
          answer.text += text;
          draw();
        },
        answer.stop.signal,
      );
      answer.tokens = ended.usage?.completion_tokens ?? null;
      answer.finish = ended.finish;
    } catch (error) {
      if (answer.stop.signal.aborted) answer.finish = "stopped";
      else answer.error = error;
    }
    answer.total = passed();
    answer.running = false;
    draw();
  };

  const ask = (text: string) => {
    const before = exchanges.flatMap((one): Message[] => {
      const kept = one.answers[one.kept];
      const user = one.messages[one.messages.length - 1]!;
      return kept && kept.text ? [user, { role: "assistant", content: kept.text }] : [];
    });
    const system: Message[] = options.system.trim() ? [{ role: "system", content: options.system }] : [];
    const exchange: Exchange = {
      number: ++numbers,
      messages: [...system, ...before, { role: "user", content: text }],
      answers: [],
      kept: 0,
      route: null,
      routeError: null,
    };
    follows.current = true;
    setExchanges([...exchanges, exchange]);
    void run(exchange, options.model);
    post<Route>("/v1/route", bodyOf(exchange, auto)).then(
      (route) => {
        exchange.route = route;
        draw();
      },
      (error) => {
        exchange.routeError = error;
        draw();
      },
    );
  };

  const stop = () => exchanges.forEach((one) => one.answers.forEach((answer) => answer.running && answer.stop.abort()));

  return (
    <>
      <h1 class="unseen">Try</h1>
      {exchanges.length === 0 ? (
        <Welcome learnwares={learnwares} ask={ask} />
      ) : (
        <div class="exchanges">
          {exchanges.map((one) => (
            <ExchangeView
              key={one.number}
              exchange={one}
              session={session}
              learnwares={learnwares}
              answerWith={(model) => void run(one, model)}
              draw={draw}
            />
          ))}
        </div>
      )}
      <Composer
        options={options}
        setOptions={setOptions}
        models={[auto, session.base, ...learnwares.map((one) => one.id)]}
        busy={busy}
        ask={ask}
        stop={stop}
        clear={exchanges.length ? () => (stop(), setExchanges([])) : null}
      />
    </>
  );
}

const bodyOf = (exchange: Exchange, model: string) => ({ model, messages: exchange.messages });

/** A function that has the page drawn anew with the next frame, however often it is called before. */
function useFrames(): () => void {
  const [, turn] = useReducer((count: number) => count + 1, 0);
  return useMemo(() => {
    let waiting = false;
    return () => {
      if (waiting) return;
      waiting = true;
      // a hidden tab has no frames
      (document.hidden ? (call: () => void) => setTimeout(call, 200) : requestAnimationFrame)(() => {
        waiting = false;
        turn(0 as never);
      });
    };
  }, []);
}

/** Examples from the cards of some learnwares of different domains, to begin with. */
function Welcome({ learnwares, ask }: { learnwares: Learnware[]; ask: (text: string) => void }) {
  const shown = useMemo(() => {
    const byDomain = new Map<string, Learnware[]>();
    for (const one of learnwares) {
      if (!one.card?.examples?.length || one.card.examples[0]!.length > 600) continue;
      byDomain.set(one.card.domain, [...(byDomain.get(one.card.domain) ?? []), one]);
    }
    const lists = [...byDomain.values()];
    const turns = [0, 1, 2].flatMap((turn) => lists.flatMap((list) => list[turn] ?? []));
    return turns.slice(0, 6);
  }, [learnwares]);
  return (
    <div class="welcome">
      <h2>Ask something</h2>
      <p class="muted">
        The learnware that fits best answers, or the base model if none does. Beside each answer stand the figures behind
        the choice, and another candidate can answer the same.
      </p>
      {shown.length > 0 && (
        <ul class="examples" aria-label="Examples from the market">
          {shown.map((one) => (
            <li key={one.id}>
              <button type="button" onClick={() => ask(one.card!.examples![0]!)}>
                <span class="example-name" dir="auto">
                  {one.card!.name}
                </span>
                <span class="example-text" dir="auto">
                  {one.card!.examples![0]}
                </span>
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

function Composer({
  options,
  setOptions,
  models,
  busy,
  ask,
  stop,
  clear,
}: {
  options: Options;
  setOptions: (options: Options) => void;
  models: string[];
  busy: boolean;
  ask: (text: string) => void;
  stop: () => void;
  clear: (() => void) | null;
}) {
  const [text, setText] = useState("");
  const field = useRef<HTMLTextAreaElement>(null);
  const submit = () => {
    if (!text.trim() || busy) return;
    ask(text);
    setText("");
    field.current?.focus();
  };
  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      <label for="prompt" class="unseen">
        Your message
      </label>
      <textarea
        id="prompt"
        ref={field}
        rows={2}
        dir="auto"
        value={text}
        placeholder="Write a message…"
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
            event.preventDefault();
            submit();
          }
        }}
      />
      <div class="controls">
        <label class="inline">
          <span>Model</span>
          <select
            aria-label="Model"
            value={options.model}
            onChange={(event) => setOptions({ ...options, model: event.currentTarget.value })}
          >
            {[...new Set(models)].map((model) => (
              <option key={model} value={model}>
                {model}
              </option>
            ))}
          </select>
        </label>
        <details class="more">
          <summary>Options</summary>
          <div class="panel">
            <label>
              System prompt
              <textarea
                rows={2}
                value={options.system}
                onInput={(event) => setOptions({ ...options, system: event.currentTarget.value })}
              />
            </label>
            <div class="two">
              <label>
                Most tokens
                <input
                  type="number"
                  min={1}
                  max={8192}
                  value={options.maxTokens}
                  onChange={(event) =>
                    setOptions({ ...options, maxTokens: Math.max(1, Math.round(event.currentTarget.valueAsNumber || 1)) })
                  }
                />
              </label>
              <label>
                Temperature
                <input
                  type="number"
                  min={0}
                  max={2}
                  step={0.1}
                  value={options.temperature}
                  onChange={(event) =>
                    setOptions({ ...options, temperature: Math.min(2, Math.max(0, event.currentTarget.valueAsNumber || 0)) })
                  }
                />
              </label>
            </div>
          </div>
        </details>
        <span class="space" />
        {clear && (
          <button type="button" class="quiet" title="New chat" aria-label="New chat" onClick={clear}>
            New
          </button>
        )}
        {busy ? (
          <button type="button" class="primary" onClick={stop}>
            Stop
          </button>
        ) : (
          <button type="submit" class="primary" disabled={!text.trim()}>
            Send
          </button>
        )}
      </div>
    </form>
  );
}

function ExchangeView({
  exchange,
  session,
  learnwares,
  answerWith,
  draw,
}: {
  exchange: Exchange;
  session: Session;
  learnwares: Learnware[];
  answerWith: (model: string) => void;
  draw: () => void;
}) {
  const user = exchange.messages[exchange.messages.length - 1]!;
  const several = exchange.answers.length > 1;
  return (
    <section class="exchange" aria-label="A message and its answers">
      <div class="turn">
        <div class="user" dir="auto">
          {user.content}
        </div>
        <div class={`answers ${several ? "several" : ""}`}>
          {exchange.answers.map((answer, place) => (
            <AnswerView
              key={answer.number}
              answer={answer}
              session={session}
              keep={several ? () => ((exchange.kept = place), draw()) : null}
              kept={exchange.kept === place}
              draw={draw}
            />
          ))}
        </div>
        <AnswerWith exchange={exchange} session={session} learnwares={learnwares} answerWith={answerWith} />
      </div>
      <aside class="why" aria-label="Why this model">
        <Why exchange={exchange} session={session} />
      </aside>
    </section>
  );
}

/** Lets another candidate, or the base model, answer the same. */
function AnswerWith({
  exchange,
  session,
  learnwares,
  answerWith,
}: {
  exchange: Exchange;
  session: Session;
  learnwares: Learnware[];
  answerWith: (model: string) => void;
}) {
  const candidates = exchange.route?.candidates.map((one) => one.learnware) ?? [];
  const others = learnwares.map((one) => one.id).filter((id) => !candidates.includes(id));
  return (
    <label class="inline answer-with">
      <span>Answer with</span>
      <select
        aria-label="Answer with"
        value=""
        disabled={exchange.answers.some((one) => one.running)}
        onChange={(event) => {
          const model = event.currentTarget.value;
          event.currentTarget.value = "";
          if (model) answerWith(model);
        }}
      >
        <option value="">another model…</option>
        <option value={session.base}>{session.base} (base)</option>
        {candidates.length > 0 && (
          <optgroup label="Candidates">
            {candidates.map((id) => (
              <option key={id} value={id}>
                {id}
              </option>
            ))}
          </optgroup>
        )}
        {others.length > 0 && (
          <optgroup label="Others">
            {others.map((id) => (
              <option key={id} value={id}>
                {id}
              </option>
            ))}
          </optgroup>
        )}
      </select>
    </label>
  );
}

function AnswerView({
  answer,
  session,
  keep,
  kept,
  draw,
}: {
  answer: Answer;
  session: Session;
  keep: (() => void) | null;
  kept: boolean;
  draw: () => void;
}) {
  const rate =
    answer.tokens !== null && answer.tokens > 1 && answer.total !== null && answer.firstToken !== null && answer.total - answer.firstToken > 0.05
      ? (answer.tokens - 1) / (answer.total - answer.firstToken)
      : null;
  const judge = async (verdict: "right" | "wrong") => {
    answer.verdict = verdict;
    answer.verdictNote = null;
    draw();
    try {
      await post("/v1/feedback", { id: answer.requestId, label: verdict });
      answer.verdictNote = session.learns ? "Kept, and learnt from" : "Kept with the decision";
    } catch (error) {
      answer.verdict = null;
      answer.verdictNote =
        error instanceof ApiError && error.status === 404
          ? session.decisions
            ? "The decision log does not know this answer."
            : "Feedback is off: this stack keeps no decisions."
          : error instanceof Error
            ? error.message
            : String(error);
    }
    draw();
  };
  const shown = answer.model ?? (answer.asked === session.auto[0] ? null : answer.asked);
  return (
    <article class="answer" aria-busy={answer.running}>
      <header>
        {shown ? <Model id={shown} base={shown === session.base} link /> : <span class="muted">choosing…</span>}
        {answer.reason && <Reason value={answer.reason} />}
      </header>
      <div class="text" dir="auto">
        {answer.text}
        {answer.running && <i class="caret" aria-hidden="true" />}
        {!answer.running && !answer.text && !answer.error && <span class="muted">(an empty answer)</span>}
      </div>
      <Fault error={answer.error} />
      <footer>
        <dl class="times">
          <div>
            <dt>first token</dt>
            <dd>{seconds(answer.firstToken)}</dd>
          </div>
          <div>
            <dt>total</dt>
            <dd>{seconds(answer.total)}</dd>
          </div>
          <div>
            <dt>tokens</dt>
            <dd>{answer.tokens ?? "–"}</dd>
          </div>
          <div>
            <dt>tokens/s</dt>
            <dd>{rate === null ? "–" : compact(rate)}</dd>
          </div>
        </dl>
        <div class="judge" role="group" aria-label="Feedback on this answer">
          {(["right", "wrong"] as const).map((verdict) => (
            <button
              key={verdict}
              type="button"
              class={`verdict ${verdict}`}
              aria-pressed={answer.verdict === verdict}
              disabled={answer.running || answer.error !== null || answer.requestId === null}
              onClick={() => void judge(verdict)}
            >
              {verdict === "right" ? "Right" : "Wrong"}
            </button>
          ))}
          {keep && (
            <button type="button" class="verdict" aria-pressed={kept} disabled={answer.running || !answer.text} onClick={keep}>
              Go on with this
            </button>
          )}
        </div>
        <p class="small muted" role="status">
          {answer.verdictNote ?? (answer.finish === "length" ? "Cut at the most tokens." : answer.finish === "stopped" ? "Stopped." : "")}
        </p>
      </footer>
    </article>
  );
}

function Why({ exchange, session }: { exchange: Exchange; session: Session }) {
  const { route, routeError } = exchange;
  if (routeError) return <Fault error={routeError} />;
  if (!route) return <Placeholder rows={6} />;
  const first = exchange.answers[0];
  const named = first?.reason?.startsWith("named");
  return (
    <>
      <h3>{named ? "What would be chosen, and why" : "Why this model"}</h3>
      <p class="explanation" dir="auto">
        {route.explanation}
      </p>
      <Candidates candidates={route.candidates} base={route.base.expected} baseName={session.base} chosen={route.learnware} />
      <Match match={route.match} bound={route.min_match} confidence={route.confidence} />
      <Tasks tasks={route.tasks} />
      <Ask ask={route.ask} />
      <dl class="pairs">
        {route.replica && (
          <div>
            <dt>Replica, asked again</dt>
            <dd>
              {short(route.replica.id)} <span class="muted">({route.replica.why})</span>
            </dd>
          </div>
        )}
        {route.replica && (
          <div>
            <dt>Adapter in</dt>
            <dd>
              <span class={`tier ${route.replica.tier}`}>{route.replica.tier}</span>
            </dd>
          </div>
        )}
        <div>
          <dt>Decided in</dt>
          <dd>{(first?.routeMs ?? route.route_ms).toFixed(1)} ms</dd>
        </div>
        {first?.requestId && (
          <div class="wide">
            <dt>Request</dt>
            <dd>
              <a href={`#/decisions/${encodeURIComponent(first.requestId)}`}>{first.requestId}</a>
            </dd>
          </div>
        )}
      </dl>
    </>
  );
}
