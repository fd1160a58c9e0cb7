// CSV files (RFC 4180) that spreadsheets open without running anything.

/** A file that is written part by part. `abort` leaves no file behind. */
export type CsvFile = { write(text: string): Promise<void>; close(): Promise<void>; abort(): Promise<void> };

/** So that Excel reads the file as UTF-8. */
const BYTE_ORDER_MARK = '\uFEFF';

/** Spreadsheets would run a cell that begins like this as a formula: https://owasp.org/www-community/attacks/CSV_Injection */
const FORMULA = /^[=+\-@\t\r]/;

function cell(value: string | null | undefined): string {
  const text = value ?? '';
  const safe = FORMULA.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

export const csvLine = (values: (string | null | undefined)[]): string => `${values.map(cell).join(',')}\r\n`;

type SavePicker = (options: { suggestedName: string; types: { description: string; accept: Record<string, string[]> }[] }) => Promise<FileSystemFileHandle>;

/** Where the browser can, the file is written to the disk directly. Otherwise it is saved at the end. Undefined if the user has chosen no file. */
export async function openFile(name: string, header: string): Promise<CsvFile | undefined> {
  const { showSaveFilePicker } = window as { showSaveFilePicker?: SavePicker };
  if (!showSaveFilePicker) return begin(fileOfParts(name), header);
  try {
    const handle = await showSaveFilePicker({ suggestedName: name, types: [{ description: 'CSV', accept: { 'text/csv': ['.csv'] } }] });
    return await begin(await handle.createWritable(), header);
  } catch (error) {
    if (error instanceof DOMException && error.name === 'AbortError') return undefined;
    throw error;
  }
}

async function begin(file: CsvFile, header: string): Promise<CsvFile> {
  await file.write(BYTE_ORDER_MARK + header);
  return file;
}

function fileOfParts(name: string): CsvFile {
  const parts: Blob[] = [];
  return {
    // The browser may keep a blob on the disk.
    write: async (text) => void parts.push(new Blob([text])),
    close: async () => {
      const url = URL.createObjectURL(new Blob(parts, { type: 'text/csv;charset=utf-8' }));
      Object.assign(document.createElement('a'), { href: url, download: name }).click();
      // Not at once: the browser has only begun to save it.
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    },
    abort: async () => void parts.splice(0),
  };
}
