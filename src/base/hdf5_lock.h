/* HDF5 as Debian builds it is not safe to use from several threads: whoever calls it holds this lock meanwhile.
 * Not recursive: a function that takes it calls none that does. */
#ifndef BASE_HDF5_LOCK_H
#define BASE_HDF5_LOCK_H

void hdf5_lock(void);
void hdf5_unlock(void);

#endif
