// A chat that shows who answers each turn, and why.
import { useEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import { post, stream } from "./api";
import type { Answer, Exchange, Message, Options } from "./chat";
import { Composer, Welcome } from "./composer";
import { ExchangeView } from "./exchange";
import { useFetched, useSession } from "./hooks";
import type { LearnwareList, Route } from "./types";

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
        (headers) => {
          answer.model = headers.get("x-learnware");
          answer.reason = headers.get("x-learnware-reason");
          answer.requestId = headers.get("x-request-id");
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
