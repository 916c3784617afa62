// Where a message is written, and what it is sent with; and examples to begin with.
import { useMemo, useRef, useState } from "preact/hooks";
import type { Options } from "./chat";
import type { Learnware } from "./types";

/** Examples from the cards of some learnwares of different domains, to begin with. */
export function Welcome({ learnwares, ask }: { learnwares: Learnware[]; ask: (text: string) => void }) {
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

export function Composer({
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
