// A message with the answers to it, and why they are from whom they are.
import { ApiError, post } from "./api";
import type { Answer, Exchange } from "./chat";
import { compact, seconds, short } from "./format";
import { Fault, Model, Placeholder } from "./parts";
import type { Learnware, Session } from "./types";
import { Ask, Candidates, Match, Reason, Tasks } from "./why";

export function ExchangeView({
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
