// How the pages speak with the stack: one place that adds the key, reads errors, and notices a lost connection.
import type { Session } from "./types";

const KEY = "learnware-key";

/** The key of this tab. It is kept in the tab's session storage alone, and gone when the tab is closed. */
export const key = {
  get: (): string => sessionStorage.getItem(KEY) ?? "",
  set: (value: string): void => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** An answer of the stack that says what was wrong. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly code: string | null = null,
  ) {
    super(message);
  }
}

/** No answer at all. */
export class ConnectionLost extends Error {
  constructor() {
    super("The connection to the stack was lost.");
  }
}

type Listener = (event: "lost" | "back" | "unauthorized") => void;
const listeners = new Set<Listener>();

export function listen(listener: Listener): () => void {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const tell = (event: Parameters<Listener>[0]) => listeners.forEach((listener) => listener(event));

export function headers(more: Record<string, string> = {}): Record<string, string> {
  const own = key.get();
  return own ? { ...more, authorization: `Bearer ${own}` } : more;
}

/** Sends a request. Raises ConnectionLost, or ApiError with the server's own words. */
export async function send(path: string, options: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, {
      ...options,
      headers: headers(options.headers as Record<string, string> | undefined),
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
    });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    tell("lost");
    throw new ConnectionLost();
  }
  tell("back");
  if (response.ok) return response;
  const wrong = errorOf(response.status, await response.text());
  if (wrong.status === 401) tell("unauthorized");
  throw wrong;
}

/** The error in a body: OpenAI's or Anthropic's object, or whatever there is. */
export function errorOf(status: number, body: string): ApiError {
  try {
    const error = JSON.parse(body).error;
    if (typeof error?.message === "string") return new ApiError(status, error.message, error.code ?? null);
  } catch {
    // not JSON: a proxy's page, say
  }
  const known: Record<number, string> = {
    502: "The engine that had the request is gone. Another one takes its place; try again.",
    503: "The stack does not answer now. It may be starting, or have too much to do.",
    504: "The answer took too long.",
  };
  return new ApiError(status, known[status] ?? `The stack answered with status ${status}.`);
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await send(path, signal ? { signal } : {})).json()) as T;
}

export async function post<T>(path: string, body?: unknown, signal?: AbortSignal): Promise<T> {
  const options: RequestInit = { method: "POST" };
  if (signal) options.signal = signal;
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers = { "content-type": "application/json" };
  }
  return (await (await send(path, options)).json()) as T;
}

export const session = (): Promise<Session> => get<Session>("/console/api/session");

/** A path of one learnware. The slash of an owner's id stays a slash. */
export const learnwarePath = (id: string): string => `/v1/learnwares/${id.split("/").map(encodeURIComponent).join("/")}`;

export interface ServerEvent {
  event: string;
  data: string;
}

/** Takes server-sent events apart, as their text arrives in pieces. */
export class EventReader {
  private rest = "";

  push(text: string): ServerEvent[] {
    const blocks = (this.rest + text).replaceAll("\r\n", "\n").split("\n\n");
    this.rest = blocks.pop() ?? "";
    return blocks.flatMap((block) => {
      let event = "message";
      const data: string[] = [];
      for (const line of block.split("\n")) {
        if (line.startsWith("event:")) event = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      }
      return data.length ? [{ event, data: data.join("\n") }] : [];
    });
  }
}

export interface StreamEnd {
  usage: { prompt_tokens: number; completion_tokens: number } | null;
  finish: string | null;
}

/** Asks for a chat completion and calls `more` with each piece of the answer. `begun` gets its headers. */
export async function stream(
  body: object,
  begun: (headers: Headers) => void,
  more: (text: string) => void,
  signal: AbortSignal,
): Promise<StreamEnd> {
  const response = await send("/v1/chat/completions", {
    method: "POST",
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
    headers: { "content-type": "application/json" },
    signal,
  });
  begun(response.headers);
  const end: StreamEnd = { usage: null, finish: null };
  const events = new EventReader();
  const decoder = new TextDecoder();
  const reader = response.body!.getReader();
  let done = false;
  while (!done) {
    let part: ReadableStreamReadResult<Uint8Array>;
    try {
      part = await reader.read();
    } catch (error) {
      if (signal.aborted) throw error;
      tell("lost");
      throw new ConnectionLost();
    }
    if (part.done) break;
    for (const { data } of events.push(decoder.decode(part.value, { stream: true }))) {
      if (data === "[DONE]") {
        done = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(Number(chunk.error.code) || 500, chunk.error.message ?? "The answer broke off.");
      if (chunk.usage) end.usage = chunk.usage;
      const choice = chunk.choices?.[0];
      if (choice?.delta?.content) more(choice.delta.content);
      if (choice?.finish_reason) end.finish = choice.finish_reason;
    }
  }
  if (!done) throw new ApiError(502, "The answer broke off before its end.");
  return end;
}

export interface Upload {
  /** Share of the body that is sent, 0 to 1. */
  sent: (share: number) => void;
  event: (event: ServerEvent) => void;
}

/** Sends a zip and reports its progress. `fetch` cannot tell how much of a body is sent, XMLHttpRequest can. */
export function upload(method: "POST" | "PUT", path: string, file: Blob, on: Upload, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    const events = new EventReader();
    let read = 0;
    const take = () => {
      if (request.status !== 200 || !request.getResponseHeader("content-type")?.startsWith("text/event-stream")) return;
      const text = request.responseText;
      events.push(text.slice(read)).forEach(on.event);
      read = text.length;
    };
    request.open(method, path);
    for (const [name, value] of Object.entries(headers({ "content-type": "application/zip", accept: "text/event-stream" }))) {
      request.setRequestHeader(name, value);
    }
    request.upload.onprogress = (progress) => on.sent(progress.total ? progress.loaded / progress.total : 0);
    request.upload.onload = () => on.sent(1);
    request.onprogress = take;
    request.onload = () => {
      take();
      if (request.status >= 400) reject(errorOf(request.status, request.responseText));
      else resolve();
    };
    request.onerror = () => {
      tell("lost");
      reject(new ConnectionLost());
    };
    request.onabort = () => reject(new DOMException("aborted", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}
