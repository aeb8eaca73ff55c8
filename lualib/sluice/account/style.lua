--- The style sheet of the page: light and dark by what the reader's system prefers, no font and no picture
-- from elsewhere.

return [[
:root{color-scheme:light dark;--bg:#f6f7f9;--card:#fff;--ink:#1b2430;--soft:#5b6675;--line:#e1e5ea;--grid:#e9ecf0;
--ok:#2f6fde;--okfill:#9cbcf2;--bad:#c93c37;--warn:#b7791f;--wait:#a8b0bb;--stop:#7d8795;--mark:#0e8a6a}
@media (prefers-color-scheme:dark){:root{--bg:#12161c;--card:#1b2129;--ink:#e4e8ee;--soft:#9aa5b3;--line:#2d3540;
--grid:#28303a;--ok:#6ea1f7;--okfill:#3c62a6;--bad:#f07670;--warn:#dba647;--wait:#56606d;--stop:#788392;--mark:#3ecf9f}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","PingFang SC","Microsoft YaHei","Noto Sans CJK SC","Noto Sans SC",sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 24px 56px}
h1{font-size:24px;line-height:1.25;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:16px;margin:0 0 12px}
h3{font-size:14px;margin:0 0 6px;color:var(--soft);font-weight:600}
p{margin:0 0 10px}.soft,.note{color:var(--soft)}.note{font-size:13px;margin:8px 0 0}
.end{display:inline-block;padding:1px 9px;border-radius:10px;font-size:13px;font-weight:600;
border:1px solid currentColor}
.good{color:var(--mark)}.bad{color:var(--bad)}.warn{color:var(--warn)}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:16px 0 0}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(134px,1fr));gap:10px;margin:20px 0 0;padding:0}
.tiles>div{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:11px 13px}
.tiles dt{color:var(--soft);font-size:13px}.tiles dd{margin:0}
.tiles .big{font-size:22px;font-weight:650;line-height:1.3;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
.tiles .long{font-size:17px}.tiles .big span{white-space:nowrap}.tiles .small{font-size:13px;color:var(--soft)}
.two{display:grid;grid-template-columns:repeat(auto-fill,minmax(380px,1fr));gap:16px 32px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:5px 14px 5px 0;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600;font-size:13px;white-space:nowrap}
.n+td,.n+th:not(.n){padding-left:28px}tr:last-child td,tr:last-child th[scope=row]{border-bottom:0}
th[scope=row]{color:var(--ink);font-size:14px;
font-weight:500;white-space:normal;overflow-wrap:anywhere;min-width:150px}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
svg{display:block;width:100%;height:auto;font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg text{fill:var(--soft)}.grid{stroke:var(--grid);stroke-width:1}.axis{stroke:var(--line);stroke-width:1}
.bar{fill:var(--ok)}.peak{fill:var(--okfill)}.mean{fill:none;stroke:var(--ok);stroke-width:2;stroke-linejoin:round}
.fail{stroke:var(--bad);stroke-width:2}.rule{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:4 3}
svg text.tag{fill:var(--ink);font-weight:600}
details{border-bottom:1px solid var(--line)}details:last-of-type{border-bottom:0}
summary{display:grid;grid-template-columns:minmax(190px,30%) 1fr 74px;gap:14px;align-items:center;padding:6px 0;
cursor:pointer;list-style:none}summary::-webkit-details-marker{display:none}
summary:hover .who b,summary:focus-visible .who b{text-decoration:underline}
.who{min-width:0;line-height:1.3}.who b{font-weight:550;display:block;overflow:hidden;text-overflow:ellipsis;
white-space:nowrap}.who span{font-size:12.5px;color:var(--soft);display:block;overflow:hidden;text-overflow:ellipsis;
white-space:nowrap}
.lane{position:relative;height:20px;background:linear-gradient(var(--grid),var(--grid)) 0 50%/100% 1px no-repeat}
.lane i{position:absolute;top:3px;height:14px;min-width:2px;border-radius:2px}
i.ok{background:var(--ok)}i.error{background:var(--bad)}i.interrupted,i.abandoned{background:var(--warn)}
i.cancelled{background:var(--stop)}i.refused{background:var(--bad);width:3px}
i.wait{background:repeating-linear-gradient(135deg,var(--wait) 0 3px,transparent 3px 6px);top:6px;height:8px}
.lane i.first{top:0;height:20px;width:2px;min-width:2px;background:var(--ink);border-radius:0}
ol{margin:2px 0 12px;padding-left:22px;font-size:13.5px;color:var(--soft)}
.key{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:13px;color:var(--soft);margin:0 0 8px;padding:0;list-style:none}
.key i{display:inline-block;width:16px;height:10px;border-radius:2px;margin-right:6px;vertical-align:0}
.key i.wait{height:8px}.key i.first{width:2px;height:14px;background:var(--ink);vertical-align:-2px}
footer{color:var(--soft);font-size:13px;margin-top:20px}
@media (max-width:640px){main{padding:20px 14px}summary{grid-template-columns:1fr 64px}.lane{grid-column:1/-1;
grid-row:2}
.two{grid-template-columns:1fr}}
@media print{body{background:#fff}section,.tiles>div{break-inside:avoid}}
]]
