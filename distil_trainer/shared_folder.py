"""A folder of files on a disk, a disk that machines share, or an object store: each file is whole or absent."""

import contextlib
import errno
import os

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

# They show an object when all of it has arrived, and know no folders. Elsewhere a file is written under a temporary
# name and then renamed.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "hf", "memory"}


class SharedFolder:
    """A folder that processes and machines may write at the same time.

    Two writers of one name must write the same content: the file of one of them stays.

    Args:
        url (`str` or `Path`): a path, or a URL that fsspec knows, such as `s3://bucket/folder`.
    """

    def __init__(self, url):
        self._files, self._path = url_to_fs(str(url))
        self.is_local = isinstance(self._files, LocalFileSystem)
        protocol = self._files.protocol
        self._puts_whole_objects = not _OBJECT_STORES.isdisjoint([protocol] if isinstance(protocol, str) else protocol)

    def __str__(self):
        return self._path if self.is_local else self._files.unstrip_protocol(self._path)

    def file(self, name):
        """Return the path or URL of a file, as `load_dataset("parquet", data_files=...)` reads it."""
        return f"{self}/{name}"

    def make(self):
        """Create the folder where it is absent; object stores have none.

        Raises:
            OSError: if it cannot be created.
        """
        if not self._puts_whole_objects:
            with self.clear_errors("created"):
                self._files.makedirs(self._path, exist_ok=True)

    def names(self, suffix):
        """List the files that stand here now.

        Args:
            suffix (`str` or `tuple[str]`): how their names end.

        Returns:
            `list[str]`: names, sorted.
        """
        self._files.invalidate_cache()  # fsspec remembers listings of object stores; others write there
        try:
            paths = self._files.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        names = (str(path).rpartition("/")[2] for path in paths)
        return sorted(name for name in names if name.endswith(suffix) and not name.startswith("."))

    def has(self, name):
        """Tell whether a file stands here now."""
        self._files.invalidate_cache()
        return self._files.exists(f"{self._path}/{name}")

    def put(self, local_file, name):
        """Copy a file here; it appears when it is whole.

        Args:
            local_file (`str` or `Path`): the file to copy.
            name (`str`): its name here; a file of this name is replaced, where the file system can.

        Raises:
            OSError: if it cannot be written.
        """
        target = f"{self._path}/{name}"
        with self.clear_errors("written"):
            if self._puts_whole_objects:
                self._files.put_file(str(local_file), target)
                return
            temporary = f"{self._path}/.{name}.{os.urandom(4).hex()}.tmp"
            try:
                self._files.put_file(str(local_file), temporary)
                if self.is_local:
                    with open(temporary, "rb") as file:
                        os.fsync(file.fileno())  # or, when the power fails, the name may outlive the content
                self._move(temporary, target)
            except BaseException:
                with contextlib.suppress(Exception):
                    self._files.rm_file(temporary)
                raise

    def _move(self, temporary, target):
        if self.is_local:
            os.replace(temporary, target)
            return
        try:
            self._files.mv(temporary, target)
        except Exception:
            self._files.invalidate_cache()
            if not self._files.exists(target):
                raise
            # Some file systems (sftp) move nothing onto a name that is there: another process wrote the content first.
            self._files.rm_file(temporary)

    def get(self, name, local_file):
        """Copy a file from here to a disk, under a temporary name first.

        Args:
            name (`str`): its name here.
            local_file (`Path`): its place on the disk.

        Raises:
            FileNotFoundError: if it is not here.
        """
        temporary = local_file.with_name(f"{os.getpid()}-{os.urandom(4).hex()}.tmp")
        try:
            self._files.get_file(f"{self._path}/{name}", str(temporary))
            os.replace(temporary, local_file)
        finally:
            temporary.unlink(missing_ok=True)

    def rename(self, name, new_name):
        """Rename a file, unless another process did so first."""
        with contextlib.suppress(FileNotFoundError):
            self._files.mv(f"{self._path}/{name}", f"{self._path}/{new_name}")

    def touch(self, name):
        """Write an empty file, by which the others see that this process can write here.

        Raises:
            OSError: if it cannot be written.
        """
        with self.clear_errors("written"):
            self._files.touch(f"{self._path}/{name}")

    def remove(self, name):
        """Delete a file."""
        self._files.rm_file(f"{self._path}/{name}")

    @contextlib.contextmanager
    def clear_errors(self, what):
        """Say of any `OSError` in this block that the folder could not be `what`, and what to do.

        Raises:
            OSError: of the same kind.
        """
        try:
            yield
        except OSError as error:
            raise OSError(
                error.errno or errno.EIO,
                f"{str(self)!r} could not be {what} ({error}). Nothing half-written was left there, and what was "
                "finished before is kept. Free space, mend the permissions, or give a folder that can be written; "
                "then start again, which goes on from there.",
            ) from error
