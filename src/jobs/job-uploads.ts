/** The files that come with a job, and where they are put for the worker. */
import type { ObjectStore } from '../storage/object-store.ts';
import type { KeptObject, UpscaleJobData } from './job.ts';

/** Byte for byte as the client sent them. Where each goes, the data of the job say. */
export interface JobUploads {
  /** Absent when the job has a source. */
  image?: Uint8Array;
  maps?: { pix?: Uint8Array; sem?: Uint8Array };
}

/** @returns key and size of each */
export async function storeUploads(
  store: ObjectStore,
  { image, maps = {} }: JobUploads,
  data: Pick<UpscaleJobData, 'input' | 'maps'>,
  ttlSeconds: number,
): Promise<Pick<KeptObject, 'key' | 'bytes'>[]> {
  const stored: Pick<KeptObject, 'key' | 'bytes'>[] = [];
  const put = async (key: string | undefined, bytes: Uint8Array | undefined): Promise<void> => {
    if (key === undefined || !bytes) return;
    await store.put(key, bytes, ttlSeconds);
    stored.push({ key, bytes: bytes.byteLength });
  };
  await put(data.input.key, image);
  await put(data.maps?.pix, maps.pix);
  await put(data.maps?.sem, maps.sem);
  return stored;
}
