# Written for gofer 2.12. It came to /usr/lib/gofer/plugins in an RPM.
import os

from gofer.agent.plugin import Plugin
from gofer.decorators import *
from gofer.rmi.shell import Shell

plugin = Plugin.find(__name__)


@initializer
def init():
    folder = plugin.cfg.backups.folder
    if not os.path.isdir(folder):
        os.makedirs(folder)


class Backup(object):

    @remote(secret='swordfish')
    def make(self, path):
        folder = plugin.cfg.backups.folder
        name = '%s.%d.tar.gz' % (os.path.basename(path), len(os.listdir(folder)))
        parent, base = os.path.split(path)
        shell = Shell()
        return shell.run('tar', '-czf', os.path.join(folder, name), '-C', parent, base)

    @remote
    def names(self):
        return sorted(os.listdir(plugin.cfg.backups.folder))


@action(hours=24)
def prune():
    folder = plugin.cfg.backups.folder
    for name in sorted(os.listdir(folder))[:-int(plugin.cfg.backups.keep)]:
        os.unlink(os.path.join(folder, name))
