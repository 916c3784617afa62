// Small parts that several pages share.
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { hue, learnwareOf, unit } from "./format";

/** The name of a model with its colour: each learnware has one, everywhere; the base model is grey. */
export function Model({ id, base = false, link = false }: { id: string; base?: boolean; link?: boolean }) {
  const name = (
    <>
      <i class="dot" aria-hidden="true" style={base ? {} : { "--hue": String(hue(id)) }} data-base={base || undefined} />
      <bdi>{id}</bdi>
    </>
  );
  return link && !base ? (
    <a class="model" href={`#/market/${encodeURIComponent(learnwareOf(id))}`}>
      {name}
    </a>
  ) : (
    <span class="model">{name}</span>
  );
}

/** A value from 0 to 1 as a bar, with its figure. `mark` draws a second value on it. */
export function Bar({ value, label, tone = "", max = 1 }: { value: number; label: string; tone?: string; max?: number }) {
  return (
    <span class={`bar ${tone}`}>
      <meter min={0} max={max} value={Math.max(0, Math.min(max, value))} aria-label={label} />
      <span class="figure">{unit(value)}</span>
    </span>
  );
}

export function Tag({ children, tone = "" }: { children: ComponentChildren; tone?: string }) {
  return <span class={`tag ${tone}`}>{children}</span>;
}

export function Fault({ error, retry }: { error: unknown; retry?: () => void }) {
  if (!error) return null;
  return (
    <div class="note bad" role="alert">
      <span>{error instanceof Error ? error.message : String(error)}</span>
      {retry && (
        <button type="button" class="quiet" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

/** Rows of grey that keep the place of what is on its way. */
export function Placeholder({ rows = 3 }: { rows?: number }) {
  return (
    <div class="placeholder" role="status" aria-label="Loading">
      {Array.from({ length: rows }, (_, row) => (
        <i key={row} />
      ))}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <h2>{title}</h2>
      {children}
    </div>
  );
}

/** A dialogue in the middle of the page. The browser keeps the focus in it, and Escape closes it. */
export function Dialog({ title, close, children }: { title: string; close: () => void; children: ComponentChildren }) {
  const self = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => {
    const dialog = self.current!;
    const before = document.activeElement;
    dialog.showModal();
    return () => {
      dialog.close();
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={self}
      aria-labelledby="dialog-title"
      onCancel={(event) => {
        event.preventDefault();
        close();
      }}
    >
      <h2 id="dialog-title">{title}</h2>
      {children}
    </dialog>
  );
}

export function Time({ epoch, children }: { epoch: number; children: ComponentChildren }) {
  return <time dateTime={new Date(epoch * 1000).toISOString()}>{children}</time>;
}
